//! Drawings.

use quick_xml::events::Event;

/// The texts of an SVG's `<title>`s.
///
/// # Panics
/// If it is not well-formed XML.
pub fn titles(svg: &str) -> Vec<String> {
    let mut reader = quick_xml::Reader::from_str(svg);
    reader.config_mut().check_end_names = true;
    let (mut depth, mut titles) = (0, Vec::new());
    loop {
        match reader.read_event().unwrap_or_else(|error| panic!("{error} in {svg}")) {
            Event::Start(tag) if tag.name().as_ref() == b"title" => {
                let text = reader.read_text(tag.name()).expect("a title ends");
                titles.push(text.xml10_content().expect("a title is text").into_owned());
            }
            Event::Start(_) => depth += 1,
            Event::End(_) => depth -= 1,
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0, "an element is not closed in {svg}");
    titles
}
