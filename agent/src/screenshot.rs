//! Pictures of screens: what QEMU gives (PPM) becomes a PNG.

/// Largest picture, in pixels: 16 million, as four screens of 2560 × 1600.
const PIXELS_MAX: usize = 16 << 20;

/// A picture as PNG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// The file.
    pub png: Vec<u8>,
}

impl Picture {
    /// Makes one of three bytes a pixel, row by row from the top.
    pub fn of_rgb(width: u32, height: u32, rgb: &[u8]) -> Result<Self, String> {
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(rgb));
        written.map_err(|e| format!("The picture could not be written: {e}."))?;
        Ok(Self { width, height, png })
    }

    /// Reads what a hypervisor gives: a PPM (`P6`), or a PNG.
    pub fn read(bytes: Vec<u8>) -> Result<Self, String> {
        if bytes.starts_with(b"\x89PNG") {
            let reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info();
            let (width, height) =
                reader.map_err(|e| format!("The picture makes no sense: {e}."))?.info().size();
            return Ok(Self { width, height, png: bytes });
        }
        let (width, height, rgb) = ppm(&bytes).ok_or("The picture makes no sense: it is no PPM.")?;
        Self::of_rgb(width, height, rgb)
    }
}

/// Width, height and pixels of a PPM with eight bits a colour.
fn ppm(bytes: &[u8]) -> Option<(u32, u32, &[u8])> {
    let mut rest = bytes.strip_prefix(b"P6")?;
    let mut numbers = [0_u32; 3];
    for number in &mut numbers {
        rest = rest.trim_ascii_start();
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        *number = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
        rest = &rest[digits..];
    }
    let [width, height, most] = numbers;
    let pixels = usize::try_from(width).ok()?.checked_mul(usize::try_from(height).ok()?)?;
    let rgb = rest.get(1..)?;
    let fits = (1..=PIXELS_MAX).contains(&pixels) && most == 255 && rgb.len() == pixels * 3;
    fits.then_some((width, height, rgb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ppm_becomes_a_png_with_the_same_pixels() {
        let _proof = crate::proof::pure(&["vm.screenshot"]);
        let rgb = [255, 0, 0, 0, 255, 0, 0, 0, 255, 1, 2, 3, 10, 32, 9, 0, 0, 0];
        let picture = Picture::read([&b"P6\n3 2\n255\n"[..], &rgb].concat()).unwrap();
        assert_eq!((picture.width, picture.height), (3, 2));
        let mut reader = png::Decoder::new(std::io::Cursor::new(&picture.png)).read_info().unwrap();
        let mut back = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut back).unwrap();
        assert_eq!(back, rgb);
        assert_eq!(Picture::read(picture.png.clone()), Ok(picture), "a PNG stays as it is");
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let _proof = crate::proof::pure(&["vm.screenshot"]);
        let cases: [&[u8]; 8] = [
            b"",
            b"P6",
            b"P5\n1 1\n255\nabc",
            b"P6\n1 1\n65535\nabc",
            b"P6\n1 1\n255\nab",
            b"P6\n0 1\n255\n",
            b"P6\n4294967295 4294967295\n255\n",
            b"\x89PNG",
        ];
        for bytes in cases {
            assert!(Picture::read(bytes.to_vec()).is_err(), "{bytes:?}");
        }
    }
}
