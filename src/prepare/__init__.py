"""sft-prepare: text to token ids in the HDF5 files that sft-dist reads (docs/data-format.md), and models made ready for it."""

__version__ = "0.1.0"
