//! skd binds TCP, UDP and unix-domain sockets and runs a program for each connection, with
//! the socket as its standard input and output.
//!
//! The modules are on floors: a file imports only from lower floors or from its own folder. A test
//! verifies this. From the ground up:
//!
//! | floor | modules | |
//! | --- | --- | --- |
//! | 0 | [`config`], [`error`], [`sys`] | plain data; errors; wrappers of system calls, with every `unsafe` line |
//! | 1 | [`report`] | events, written as lines of the log |
//! | 2 | [`cli`], [`setup`], [`net`], [`child`] | the command line; process setup; sockets; starting programs. Independent of each other |
//! | 3 | [`serve`] | the running daemon, which combines them |
//! | 4 | [`start`], [`check`] | the order of a start; predicting its errors |

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
