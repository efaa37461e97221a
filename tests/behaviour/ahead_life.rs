//! The life of handlers that stand ready, and of those that are made of them.
