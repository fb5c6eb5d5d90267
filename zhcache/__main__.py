"""``python -m zhcache`` is ``zhcache``."""

from zhcache.cli import main

main()
