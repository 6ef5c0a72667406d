//! The panel, as Trunk builds it.

fn main() {
    berth_app::start();
}
