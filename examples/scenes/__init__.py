"""A world of drawn scenes, small enough to learn on two cores, and the model that learnt it.

What a prompt says of a picture can be read off the picture here: whether a prompt reaches the
picture is counted, not judged. `world` draws, `captions` says it in English and Chinese, `reader`
reads the attributes off the pixels, `training` made what lies in `model/`.
"""
