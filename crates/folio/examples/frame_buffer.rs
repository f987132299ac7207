//! Draws to a frame buffer through its map, and writes what the buffer then holds to a PNG. Where
//! the machine has no such device, the buffer is plain shared memory.
//!
//! Run: `cargo run -p folio --example frame_buffer -- DEVICE PNG`, with `/dev/fb0` for the device

#![expect(clippy::cast_precision_loss, reason = "no screen has that many pixels")]

use folio::{Device, PageSize, SharedMem};
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::{env, io};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("frame_buffer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [device, png] = args.as_slice() else {
        return Err("usage: frame_buffer DEVICE PNG".into());
    };
    let screen = match OpenOptions::new().read(true).write(true).open(device) {
        Ok(file) => Screen::of(&file).map_err(|error| format!("{device}: {error}"))?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("no {device}: drawing to memory");
            Screen::in_memory(800, 500)?
        }
        Err(error) => return Err(format!("{device}: {error}").into()),
    };
    screen.draw(evening)?;
    screen.save(png)?;
    println!("{} x {} pixels, also in {png}", screen.width, screen.height);
    Ok(())
}

enum Memory {
    Device(Device),
    Plain(SharedMem),
}

/// A frame buffer: rows of `stride` bytes, from `start`, of pixels of `depth` bytes each.
struct Screen {
    memory: Memory,
    width: usize,
    height: usize,
    start: usize,
    stride: usize,
    depth: usize,
    /// Where red, green and blue lie in a pixel: first bit, and how many.
    channels: [(u32, u32); 3],
}

/// `struct fb_fix_screeninfo` of `<linux/fb.h>`.
#[repr(C)]
#[derive(Default)]
struct Fixed {
    id: [u8; 16],
    smem_start: libc::c_ulong,
    smem_len: u32,
    kind: u32,
    type_aux: u32,
    visual: u32,
    steps: [u16; 3],
    line_length: u32,
    mmio_start: libc::c_ulong,
    mmio_len: u32,
    accel: u32,
    capabilities: u16,
    reserved: [u16; 2],
}

impl Screen {
    fn of(file: &File) -> Result<Self, Box<dyn Error>> {
        const FBIOGET_VSCREENINFO: libc::Ioctl = 0x4600;
        const FBIOGET_FSCREENINFO: libc::Ioctl = 0x4602;
        const TRUE_COLOR: u32 = 2;
        // `struct fb_var_screeninfo` is forty words.
        let mut variable = [0_u32; 40];
        let mut fixed = Fixed::default();
        // SAFETY: the driver fills in a structure of exactly this layout, or answers an error.
        let asked = unsafe {
            [
                libc::ioctl(file.as_raw_fd(), FBIOGET_VSCREENINFO, variable.as_mut_ptr()),
                libc::ioctl(file.as_raw_fd(), FBIOGET_FSCREENINFO, &raw mut fixed),
            ]
        };
        if asked != [0, 0] {
            return Err(format!("not a frame buffer: {}", io::Error::last_os_error()).into());
        }
        let [width, height, _, _, left, top, bits, ..] = variable.map(|word| word as usize);
        let depth = bits / 8;
        if fixed.visual != TRUE_COLOR || !(2..=4).contains(&depth) {
            return Err(
                format!("{bits} bits a pixel, visual {}: not drawn here", fixed.visual).into()
            );
        }
        // The map starts on the page that holds the first byte.
        let lead = fixed.smem_start as usize % PageSize::system().bytes();
        let stride = fixed.line_length as usize;
        Ok(Self {
            // SAFETY: the range is the visible memory that the driver names, whose stores are
            // pixels.
            memory: Memory::Device(unsafe {
                Device::map_unchecked(file, 0, lead + fixed.smem_len as usize)
            }?),
            width,
            height,
            start: lead + top * stride + left * depth,
            stride,
            depth,
            channels: [8, 11, 14].map(|at| (variable[at], variable[at + 1])),
        })
    }

    fn in_memory(width: usize, height: usize) -> folio::Result<Self> {
        let (depth, stride) = (4, 4 * width);
        let memory = Memory::Plain(SharedMem::anonymous(stride * height)?);
        Ok(Self {
            memory,
            width,
            height,
            start: 0,
            stride,
            depth,
            channels: [(16, 8), (8, 8), (0, 8)],
        })
    }

    /// Draws a picture, whose colours are given for 0..1 from left to right and from top to bottom.
    fn draw(&self, picture: impl Fn(f32, f32) -> [f32; 3]) -> folio::Result<()> {
        for y in 0..self.height {
            let mut row = Vec::with_capacity(self.width * self.depth);
            for x in 0..self.width {
                let colour = picture(x as f32 / self.width as f32, y as f32 / self.height as f32);
                let parts = self.channels.iter().zip(colour).map(|(&(first, bits), part)| {
                    let most = ((1_u32 << bits) - 1) as f32;
                    ((part.clamp(0.0, 1.0) * most).round() as u32) << first
                });
                row.extend_from_slice(&parts.sum::<u32>().to_le_bytes()[..self.depth]);
            }
            let offset = self.start + y * self.stride;
            match &self.memory {
                Memory::Device(device) => device.write_at(&row, offset)?,
                Memory::Plain(memory) => memory.write_at(&row, offset)?,
            }
        }
        Ok(())
    }

    /// Writes what the buffer holds to a PNG.
    fn save(&self, path: &str) -> Result<(), Box<dyn Error>> {
        let mut rgb = Vec::with_capacity(3 * self.width * self.height);
        let mut row = vec![0; self.width * self.depth];
        for y in 0..self.height {
            let offset = self.start + y * self.stride;
            match &self.memory {
                Memory::Device(device) => device.read_at(&mut row, offset)?,
                Memory::Plain(memory) => memory.read_at(&mut row, offset)?,
            }
            for bytes in row.chunks(self.depth) {
                let pixel = bytes.iter().rev().fold(0, |pixel, &byte| pixel << 8 | u32::from(byte));
                rgb.extend(self.channels.map(|(first, bits)| {
                    let most = (1_u32 << bits) - 1;
                    ((pixel >> first & most) * 255 / most) as u8
                }));
            }
        }
        let file = File::create(path).map_err(|error| format!("{path}: {error}"))?;
        let mut encoder =
            png::Encoder::new(BufWriter::new(file), self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header()?.write_image_data(&rgb)?;
        Ok(())
    }
}

const SHORE: f32 = 0.68;

/// An evening at a lake: sky, sun, three ridges, and all of it mirrored below the shore.
fn evening(x: f32, y: f32) -> [f32; 3] {
    if y < SHORE {
        return land(x, y);
    }
    let depth = (y - SHORE) / (1.0 - SHORE);
    // Ripples are short and steep near the shore, and wide near the eye.
    let ripple = (150.0 / (depth + 0.18) + 9.0 * x).sin() * (0.003 + 0.012 * depth);
    let mirrored = land(x + ripple, SHORE - (y - SHORE) * 1.6 + ripple);
    mix(mirrored, [0.04, 0.07, 0.16], 0.22 + 0.4 * depth)
}

fn land(x: f32, y: f32) -> [f32; 3] {
    let height = (y / SHORE).clamp(0.0, 1.0);
    let mut colour = mix([0.10, 0.13, 0.32], [0.93, 0.46, 0.42], (height / 0.7).min(1.0));
    colour = mix(colour, [1.0, 0.80, 0.48], ((height - 0.6) / 0.4).clamp(0.0, 1.0));
    // The sun, round on a screen of 16 to 10, and its glow.
    let away = ((x - 0.63) * 1.6).hypot(y - 0.42);
    colour = mix(colour, [1.0, 0.88, 0.60], 0.75 * (-away * 6.0).exp());
    colour = mix([1.0, 0.96, 0.82], colour, ((away - 0.070) * 300.0).clamp(0.0, 1.0));
    // Ridges, the far and hazy one first: height of the crest, waves to it, roughness, colour.
    for (crest, waves, rough, shade) in [
        (0.45, 2.3, 0.055, [0.62, 0.40, 0.47]),
        (0.54, 3.7, 0.050, [0.36, 0.25, 0.38]),
        (0.62, 5.9, 0.035, [0.13, 0.12, 0.23]),
    ] {
        let phase = x * waves * std::f32::consts::TAU + crest * 40.0;
        let waved = phase.sin() * 0.6 + (phase * 2.3).sin() * 0.3 + (phase * 5.1).sin() * 0.12;
        let ridge = crest - rough * waved;
        colour = mix(colour, shade, ((y - ridge) * 400.0).clamp(0.0, 1.0));
    }
    colour
}

/// `a`, and `part` of the way to `b`.
fn mix(a: [f32; 3], b: [f32; 3], part: f32) -> [f32; 3] {
    [0, 1, 2].map(|i| a[i] + (b[i] - a[i]) * part)
}
