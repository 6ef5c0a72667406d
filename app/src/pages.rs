//! The pages, one file each.

pub mod door;
pub mod not_found;
pub mod server;
pub mod server_load;
pub mod server_new;
pub mod server_new_choices;
pub mod server_new_keys;
pub mod server_new_order;
pub mod server_new_price;
pub mod servers;
pub mod servers_row;
