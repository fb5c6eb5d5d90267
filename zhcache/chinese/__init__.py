"""Chinese prompts: who reads them, decided text by text. Torch-free but for what says otherwise."""
