//! A domain as it stands on the node it goes to: other folders, another bridge.

use std::path::{Path, PathBuf};

use quick_xml::events::{BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer};

/// What stands where.
#[derive(Debug, Clone)]
pub struct Rewrite<'a> {
    /// Files and folders here, and what each is there. Of two that fit, the first is taken.
    pub places: Vec<(PathBuf, String)>,
    /// The bridge of guests, here and there.
    pub bridge: Option<(&'a str, &'a str)>,
}

impl Rewrite<'_> {
    /// The domain's XML, for there.
    pub fn apply(&self, xml: &str) -> Result<String, String> {
        let mut reader = Reader::from_str(xml);
        let mut writer = Writer::new(Vec::new());
        // The text of an element that holds a path, which comes in pieces.
        let mut nvram: Option<String> = None;
        loop {
            let event = match reader.read_event().map_err(|e| e.to_string())? {
                Event::Eof => break,
                Event::Start(element) => {
                    nvram = (element.name().as_ref() == "nvram").then(String::new);
                    Event::Start(self.element(element)?)
                }
                Event::Empty(element) => Event::Empty(self.element(element)?),
                Event::Text(part) if let Some(nvram) = &mut nvram => {
                    nvram.push_str(&part);
                    continue;
                }
                Event::GeneralRef(part) if let Some(nvram) = &mut nvram => {
                    nvram.push_str(&format!("&{};", &*part));
                    continue;
                }
                Event::End(element) if let Some(escaped) = nvram.take() => {
                    let path = quick_xml::escape::unescape(&escaped).map_err(|e| e.to_string())?;
                    let path = Event::Text(BytesText::new(&self.path(path.trim())).into_owned());
                    writer.write_event(path).map_err(|e| e.to_string())?;
                    Event::End(element)
                }
                other => other,
            };
            writer.write_event(event).map_err(|e| e.to_string())?;
        }
        String::from_utf8(writer.into_inner()).map_err(|e| e.to_string())
    }

    fn element<'e>(&self, element: BytesStart<'e>) -> Result<BytesStart<'e>, String> {
        let name = match element.name().as_ref() {
            "source" => "source",
            "log" => "log",
            _ => return Ok(element),
        };
        let mut new = BytesStart::new(name);
        for attribute in element.attributes() {
            let attribute = attribute.map_err(|e| e.to_string())?;
            let key = attribute.key.as_ref();
            let value = quick_xml::escape::unescape(&attribute.value).map_err(|e| e.to_string())?;
            let value = match key {
                // A file, or a socket.
                "file" | "path" => self.path(&value),
                "bridge" => match self.bridge {
                    Some((here, there)) if here == value => there.to_owned(),
                    _ => value.into_owned(),
                },
                _ => value.into_owned(),
            };
            new.push_attribute((key, &*value));
        }
        Ok(new)
    }

    fn path(&self, path: &str) -> String {
        let there = |(here, there): &(PathBuf, String)| {
            let rest = Path::new(path).strip_prefix(here).ok()?;
            let there = PathBuf::from(there);
            Some(if rest.as_os_str().is_empty() { there } else { there.join(rest) })
        };
        let there = self.places.iter().find_map(there);
        there.map_or_else(|| path.to_owned(), |there| there.to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_bridges_are_those_of_the_other_node() {
        let _proof = crate::proof::pure(&["moving.send"]);
        let places = [
            ("/a&b/vms/7", "/other/vms/7"),
            ("/a&b/images", "/other/images"),
            ("/pool/volumes/5/volume.raw", "/p&l/volumes/5/volume.raw"),
        ];
        let places = places.map(|(here, there)| (PathBuf::from(here), there.to_owned())).to_vec();
        let rewrite = Rewrite { places, bridge: Some(("br0", "br1")) };
        let xml = "<domain><metadata>file='/a&amp;b/vms/7/x'</metadata>\
            <os><nvram template='/usr/v.fd'>/a&amp;b/vms/7/nvram.fd</nvram></os>\
            <source file='/a&amp;b/vms/7/disk.qcow2' index='1'/><source file='/a&amp;b/images/i.qcow2'/>\
            <source mode='bind' path='/a&amp;b/vms/7/serial.sock'/>\
            <source file='/pool/volumes/5/volume.raw'/><source file='/pool/volumes/55/volume.raw'/>\
            <source file='/a&amp;b/vms/77/disk'/><log file='/a&amp;b/vms/7/console.log' append='on'/>\
            <source bridge='br0'/><source bridge='br7'/><target dev='br0'/></domain>";
        let there = "<domain><metadata>file='/a&amp;b/vms/7/x'</metadata>\
            <os><nvram template='/usr/v.fd'>/other/vms/7/nvram.fd</nvram></os>\
            <source file=\"/other/vms/7/disk.qcow2\" index=\"1\"/><source file=\"/other/images/i.qcow2\"/>\
            <source mode=\"bind\" path=\"/other/vms/7/serial.sock\"/>\
            <source file=\"/p&amp;l/volumes/5/volume.raw\"/><source file=\"/pool/volumes/55/volume.raw\"/>\
            <source file=\"/a&amp;b/vms/77/disk\"/><log file=\"/other/vms/7/console.log\" append=\"on\"/>\
            <source bridge=\"br1\"/><source bridge=\"br7\"/><target dev='br0'/></domain>";
        assert_eq!(rewrite.apply(xml).unwrap(), there);
        assert!(rewrite.apply("<a></b>").is_err());
    }
}
