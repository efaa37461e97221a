//! skd binds TCP, UDP and unix-domain sockets and runs a program for each connection, with
//! the socket as its standard input and output.
//!
//! The modules are floors: a file imports only from lower floors or from its own folder,
//! and a test holds it to that. From the ground up:
//!
//! | floor | modules | |
//! | --- | --- | --- |
//! | 0 | [`config`], [`error`], [`sys`] | plain data; errors; the kernel, and every `unsafe` line |
//! | 1 | [`report`] | what happened, a line an event |
//! | 2 | [`cli`], [`setup`], [`net`], [`child`] | strangers to each other |
//! | 3 | [`serve`] | where mechanisms meet |
//! | 4 | [`start`], [`check`] | the only file that knows the order of start-up; what it would come to |

pub mod config;
pub mod error;
pub mod sys;

pub mod report;

pub mod child;
pub mod cli;
pub mod net;
pub mod setup;

pub mod serve;

pub mod check;
pub mod start;
