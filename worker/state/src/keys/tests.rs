use std::sync::Arc;
#[test]
fn placeholder() { let _ = Arc::new(0); }
