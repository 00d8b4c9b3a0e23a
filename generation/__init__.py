"""The generator: its stack, condition semantics, training, sampling, and the networks that measure its images."""

import torchvision_compat

torchvision_compat.install()
