//! twinblk keeps one block device identical on two machines, in user space.
