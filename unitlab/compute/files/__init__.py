"""The files of a recipe: weights and images, found here, downloaded or unpacked."""
