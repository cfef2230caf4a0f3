"""From a network and images to the arrays of a study: plan, shards, proof, and a cluster of workers."""
