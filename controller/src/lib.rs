//! weir-controller
