//! The control process against a real kernel, in namespaces of their own: what it learns, and how it behaves as a
//! process between operators and a data process. Needs root, as the control process does.

#[cfg(test)]
mod apply;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod process;
#[cfg(test)]
mod vrrp;
