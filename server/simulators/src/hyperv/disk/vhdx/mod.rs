//! VHDX as the simulated host writes and reads it, after MS-VHDX: dynamic, fixed and differencing files, with their log.
//!
//! Owns: one file at a time; who is whose parent is [`super::chain`]'s. It is strict: a file that breaks a rule of the format is
//! refused, also where a kinder reader would go on. Must never: share code with the product's own reader and writer.
//!
//! Nothing is flushed to stable storage: a simulated host survives its own death, not that of the machine under it.
//!
//! Read next: [`file`] (open, read, write), then [`layout`], [`metadata`], [`log`] and [`table`].

mod file;
mod layout;
mod log;
mod metadata;
mod open;
mod table;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use file::{Access, Source, Vhdx};
pub(crate) use metadata::{Parameters, Parent};
