//! Writing XML for libvirt and reading a little of its own.

use std::path::Path;

use quick_xml::events::Event;
use quick_xml::se::Serializer;
use serde::Serialize;

/// Writes a value as XML, indented for those who read it with `virsh`.
pub fn write(value: &impl Serialize) -> String {
    let mut out = String::new();
    let mut serializer = Serializer::new(&mut out);
    serializer.indent(' ', 2);
    value.serialize(serializer).expect("our own types are made of elements, attributes and texts alone");
    out.push('\n');
    out
}

/// A path in XML. Ours come from the configuration, which is text.
pub fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// JSON in ASCII alone: some characters that JSON takes as they are may not stand in XML at all.
pub fn ascii_json(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("specs have string keys and finite numbers");
    let mut out = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        if (' '..='~').contains(&c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

/// An element with a text.
pub fn element(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>", quick_xml::escape::escape(text))
}

/// The text of one element.
pub fn text_of(element: &str) -> Result<String, String> {
    let mut reader = quick_xml::Reader::from_str(element);
    let mut text = String::new();
    loop {
        match reader.read_event().map_err(|e| e.to_string())? {
            Event::Text(part) => text.push_str(&part),
            Event::CData(part) => text.push_str(&part),
            Event::GeneralRef(part) => {
                let entity = format!("&{};", &*part);
                text.push_str(&quick_xml::escape::unescape(&entity).map_err(|e| e.to_string())?);
            }
            Event::Eof => return Ok(text.trim().to_owned()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_from_elements() {
        for text in ["", "a", "{\"a\":\"<&>\"}", "it's \"quoted\" &amp; so on"] {
            let element = format!(
                "<berth:vm xmlns:berth='urn:x' node='n'>\n  {}\n</berth:vm>",
                quick_xml::escape::escape(text)
            );
            assert_eq!(text_of(&element).unwrap(), text);
        }
    }

    #[test]
    fn json_is_ascii_and_says_the_same() {
        let text = "é \u{ffff} \u{7f} \u{1} 🚢 \n";
        let json = ascii_json(&text);
        assert!(json.bytes().all(|b| (b' '..=b'~').contains(&b)), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
