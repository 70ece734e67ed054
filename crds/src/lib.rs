//! weir-crds
