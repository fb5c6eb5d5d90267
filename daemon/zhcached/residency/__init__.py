"""What is warm, for whom and until when: arenas and resident pipelines. No torch, no CUDA."""
