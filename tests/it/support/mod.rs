//! What tests share: real parts on free ports, waiting with deadlines.
