"""How the model was made: tokenizer, text encoder, autoencoder, denoiser, folder."""
