"""The concerns of a training run, one file each. Those that measure tell a recorder."""
