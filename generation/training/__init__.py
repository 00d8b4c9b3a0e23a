"""From images, masks and captions to a trained generator: autoencoder, decoder, UNet, text encoder and ControlNet.

In: a study's training split (or phantoms, for the embedded model) as a corpus, then as latents. Out: a stack folder
with its card; every stage runs in one resumable loop. Samples serve to watch it (`validation`).
"""
