"""Scripts in processes forked from one that has imported torch and diffusers: ``zhcache exec``.

Four processes. The *client* is what the user started; it passes signals on and ends as the script
ends. The *server*, one for each user and set of facts, has done the imports and forks. The
*keeper*, one for each script, is the script's parent and outlives the server. The *script*.
Everything runs as the user, in the user's own interpreter; zhcached has no part in it.
"""
