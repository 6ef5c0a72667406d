//! The look of what can be pressed. A class rather than a component, because links, buttons and
//! submit buttons wear it alike: `class=btn(&[PRIMARY])`.

stylance::import_style!(css, "button.module.css");

/// The one thing to do on a view.
pub const PRIMARY: &str = css::primary;
/// Without an edge.
pub const QUIET: &str = css::quiet;
/// Dangerous: outlined.
pub const BAD: &str = css::bad;
/// Dangerous and asked for: filled, in dialogs only.
pub const SOLID: &str = css::solid;
/// Small.
pub const SM: &str = css::sm;
/// A square around an icon.
pub const ICON: &str = css::icon;
/// As wide as its place.
pub const WIDE: &str = css::wide;
/// 44 px high everywhere.
pub const BIG: &str = css::big;
/// A button that reads as a link in a sentence.
pub const LINK: &str = css::link;

/// The classes of a button of these kinds.
pub fn btn(kinds: &[&str]) -> String {
    let mut class = css::btn.to_owned();
    for kind in kinds {
        class.push(' ');
        class.push_str(kind);
    }
    class
}
