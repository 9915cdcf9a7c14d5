//! What is booted: kernels, the guest's init, initramfs archives and disk images.

pub mod cpio;
pub mod images;
pub mod init;
pub mod kernel;
pub mod place;
pub mod stock;
