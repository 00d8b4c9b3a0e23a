"""What a generator is: its networks as one `GeneratorStack`, and what a condition means to them.

In: a folder (shipped, trained here, or brought: diffusers' layout, one safetensors file, LoRAs) and an arm's adapters.
Out: a stack that is ready to sample or to train, its identity, and the condition semantics that training, alignment and
sampling share. Knows nothing of studies' samples, trainings or measurements.
"""
