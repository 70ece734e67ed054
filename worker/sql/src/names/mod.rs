//! What a script can name: tables, views, connectors and functions.

pub mod catalog;
pub mod functions;
