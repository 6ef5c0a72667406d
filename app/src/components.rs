//! The pieces pages are made of. A piece owns its style sheet; nobody else names its classes.

pub mod action;
pub mod avatar;
pub mod banner;
pub mod button;
pub mod chart;
pub mod copy;
pub mod crumbs;
pub mod dialog;
pub mod empty;
pub mod field;
pub mod frame;
pub mod gauge;
pub mod icon;
pub mod kv;
pub mod menu;
pub mod netbar;
pub mod panel;
pub mod pick;
pub mod power;
pub mod seg;
pub mod skeleton;
pub mod spark;
pub mod status;
pub mod timeline;
pub mod toast;
