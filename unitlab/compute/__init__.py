"""Runs networks: images in, a study out. Needs torch; nothing here knows of views.

The way of the data: ``images`` reads and transforms pictures → ``networks`` and ``files`` give the network of a recipe →
``engine`` evaluates the suffix of the network under every ablation, one batch at a time → ``sweep`` plans, streams the images
through the engine shard by shard, proves a sample with plain hooks and writes the study. ``unitlab.ablate`` is
`unitlab.compute.sweep.run`; the public calls that use more than the sweep stand beside it: ``verify``, ``estimate``,
``unit_groups``, ``cumulative``.
"""
