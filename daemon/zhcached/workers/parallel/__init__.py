"""One image over several devices: the ranks of a worker, and how a denoiser is split over them."""
