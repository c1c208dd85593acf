//! Writing sequences in the console: the document with what the checker says of it, the steps there are, and the plan for
//! a machine. Parser, schema and plan are the same that the command line uses.

pub mod api;
pub mod console;
