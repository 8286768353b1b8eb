//! The bytes of D-Bus messages, as far as talking to systemd needs them. Format:
//! <https://dbus.freedesktop.org/doc/dbus-specification.html#message-protocol>

/// Whatever a peer says, a message of more bytes is refused; the longest that systemd sends here has some thousand.
pub(crate) const LONGEST: usize = 1 << 20;
/// The part of a header that tells how long the message is.
pub(crate) const PREFIX: usize = 16;
/// Containers in containers; the format allows 32 arrays and 32 structs.
const DEEPEST: usize = 64;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Values one after the other, each at its alignment. Everything is written little-endian.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    pub(crate) fn u32(&mut self, n: u32) {
        self.align(4);
        self.bytes.extend_from_slice(&n.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, n: u64) {
        self.align(8);
        self.bytes.extend_from_slice(&n.to_le_bytes());
    }

    pub(crate) fn string(&mut self, text: &str) {
        self.u32(length(text.len()));
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    pub(crate) fn signature(&mut self, text: &str) {
        self.bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    pub(crate) fn structure(&mut self, fill: impl FnOnce(&mut Writer)) {
        self.align(8);
        fill(self);
    }

    /// `element` is the alignment of the elements: padding before the first does not count as length.
    pub(crate) fn array(&mut self, element: usize, fill: impl FnOnce(&mut Writer)) {
        self.u32(0);
        let at = self.bytes.len();
        self.align(element);
        let start = self.bytes.len();
        fill(self);
        let size = length(self.bytes.len() - start);
        self.bytes[at - 4..at].copy_from_slice(&size.to_le_bytes());
    }
}

/// What is written here has some hundred bytes.
fn length(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A method call without its arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) destination: &'a str,
    pub(crate) path: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) member: &'a str,
}

impl Call<'_> {
    /// The whole message. `serial` is not 0; `signature` describes what is in `body`.
    pub(crate) fn encode(&self, serial: u32, signature: &str, body: &Writer) -> Vec<u8> {
        let mut w = Writer { bytes: vec![b'l', METHOD_CALL, 0, 1] };
        w.u32(length(body.bytes.len()));
        w.u32(serial);
        w.array(8, |w| {
            let fields = [
                (1, "o", self.path),
                (2, "s", self.interface),
                (3, "s", self.member),
                (6, "s", self.destination),
            ];
            for (code, kind, value) in fields {
                w.structure(|w| {
                    w.bytes.push(code);
                    w.signature(kind);
                    w.string(value);
                });
            }
            if !signature.is_empty() {
                w.structure(|w| {
                    w.bytes.push(8);
                    w.signature("g");
                    w.signature(signature);
                });
            }
        });
        w.align(8);
        w.bytes.extend_from_slice(&body.bytes);
        w.bytes
    }
}

/// What a message is about. Calls of others are not for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    Call,
    Return { to: u32 },
    Error { to: u32, name: &'a str },
    Signal { path: &'a str, interface: &'a str, member: &'a str },
    Unknown,
}

/// A message that came in.
#[derive(Clone, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: Kind<'a>,
    pub(crate) sender: Option<&'a str>,
    pub(crate) signature: &'a str,
    pub(crate) body: Reader<'a>,
}

/// How many bytes the message has that begins so; `None` if none does, or it is longer than [`LONGEST`].
pub(crate) fn message_size(prefix: &[u8; PREFIX]) -> Option<usize> {
    let big = endianness(prefix[0])?;
    let mut r = Reader { bytes: prefix, at: 4, big };
    let body = r.u32()? as usize;
    r.u32()?;
    let fields = r.u32()? as usize;
    let size = fields.checked_add(PREFIX)?.checked_next_multiple_of(8)?.checked_add(body)?;
    (prefix[3] == 1 && size <= LONGEST).then_some(size)
}

fn endianness(first: u8) -> Option<bool> {
    match first {
        b'l' => Some(false),
        b'B' => Some(true),
        _ => None,
    }
}

impl<'a> Message<'a> {
    /// Reads one whole message.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Message<'a>> {
        let size = message_size(bytes.first_chunk()?)?;
        if size != bytes.len() {
            return None;
        }
        let mut r = Reader { bytes, at: 12, big: endianness(bytes[0])? };
        let fields = r.u32()? as usize;
        let end = r.at.checked_add(fields)?;
        let (mut path, mut interface, mut member, mut error, mut sender) = (None, None, None, None, None);
        let (mut to, mut signature) = (None, "");
        while r.at < end {
            r.align(8)?;
            let code = r.byte()?;
            let kind = r.signature()?;
            match (code, kind) {
                (1, "o") => path = Some(r.string()?),
                (2, "s") => interface = Some(r.string()?),
                (3, "s") => member = Some(r.string()?),
                (4, "s") => error = Some(r.string()?),
                (5, "u") => to = Some(r.u32()?),
                (7, "s") => sender = Some(r.string()?),
                (8, "g") => signature = r.signature()?,
                (1..=5 | 7 | 8, _) => return None,
                // Those of no use here, and those that newer versions of the format may bring.
                _ => r.skip_one(kind)?,
            }
        }
        if r.at != end {
            return None;
        }
        r.align(8)?;
        let kind = match bytes[1] {
            METHOD_CALL => Kind::Call,
            METHOD_RETURN => Kind::Return { to: to? },
            ERROR => Kind::Error { to: to?, name: error? },
            SIGNAL => Kind::Signal { path: path?, interface: interface?, member: member? },
            0 => return None,
            _ => Kind::Unknown,
        };
        Some(Message { kind, sender, signature, body: r })
    }
}

/// Values one after the other. `None` wherever the bytes are no such value.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(n)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn align(&mut self, to: usize) -> Option<()> {
        let padding = self.at.next_multiple_of(to) - self.at;
        self.take(padding)?.iter().all(|b| *b == 0).then_some(())
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        let bytes = *self.take(4)?.first_chunk()?;
        Some(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// A string or an object path.
    pub(crate) fn string(&mut self) -> Option<&'a str> {
        let n = self.u32()? as usize;
        self.text(n)
    }

    fn signature(&mut self) -> Option<&'a str> {
        let n = self.byte()?;
        self.text(usize::from(n))
    }

    fn text(&mut self, n: usize) -> Option<&'a str> {
        let (end, text) = self.take(n.checked_add(1)?)?.split_last()?;
        (*end == 0 && !text.contains(&0)).then(|| std::str::from_utf8(text).ok())?
    }

    /// A string inside of a variant.
    pub(crate) fn variant_string(&mut self) -> Option<&'a str> {
        (self.signature()? == "s").then(|| self.string())?
    }

    /// Passes over one value of this type.
    fn skip_one(&mut self, signature: &str) -> Option<()> {
        self.skip(signature.as_bytes(), DEEPEST)?.is_empty().then_some(())
    }

    /// Passes over a value of the first type of a signature, and gives the rest of the signature.
    fn skip<'s>(&mut self, signature: &'s [u8], depth: usize) -> Option<&'s [u8]> {
        let depth = depth.checked_sub(1)?;
        let (first, rest) = signature.split_first()?;
        let align = alignment(*first)?;
        match first {
            b's' | b'o' => self.string().map(drop)?,
            b'g' => self.signature().map(drop)?,
            b'v' => {
                let inner = self.signature()?;
                if !self.skip(inner.as_bytes(), depth)?.is_empty() {
                    return None;
                }
            }
            b'a' => {
                let n = self.u32()? as usize;
                let (element, rest) = rest.split_at(one_type(rest, depth)?);
                self.align(alignment(element[0])?)?;
                let end = self.at.checked_add(n)?;
                while self.at < end {
                    self.skip(element, depth)?;
                }
                return (self.at == end).then_some(rest);
            }
            b'(' | b'{' => {
                self.align(align)?;
                let close = if *first == b'(' { b')' } else { b'}' };
                let mut rest = rest;
                loop {
                    rest = self.skip(rest, depth)?;
                    if rest.first() == Some(&close) {
                        return Some(&rest[1..]);
                    }
                }
            }
            _ => {
                self.align(align)?;
                self.take(align)?;
            }
        }
        Some(rest)
    }
}

/// The alignment of a type, which for those of fixed size is their size.
fn alignment(kind: u8) -> Option<usize> {
    match kind {
        b'y' | b'g' | b'v' => Some(1),
        b'n' | b'q' => Some(2),
        b'b' | b'i' | b'u' | b'h' | b's' | b'o' | b'a' => Some(4),
        b'x' | b't' | b'd' | b'(' | b'{' => Some(8),
        _ => None,
    }
}

/// The length of the first whole type of a signature. A struct has at least one member, so that every value takes bytes.
fn one_type(signature: &[u8], depth: usize) -> Option<usize> {
    let depth = depth.checked_sub(1)?;
    let close = match *signature.first()? {
        b'a' => return Some(1 + one_type(&signature[1..], depth)?),
        b'(' => b')',
        b'{' => b'}',
        other => return alignment(other).map(|_| 1),
    };
    let mut at = 1;
    loop {
        at += one_type(&signature[at..], depth)?;
        if *signature.get(at)? == close {
            return Some(at + 1);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    const CALL: Call<'static> =
        Call { destination: "org.example", path: "/a", interface: "org.example.I", member: "M" };

    /// What a peer would send: a message of any kind with these fields, each with its signature and bytes.
    fn message(kind: u8, fields: &[(u8, &str, Writer)], body: &Writer) -> Vec<u8> {
        let mut w = Writer { bytes: vec![b'l', kind, 0, 1] };
        w.u32(length(body.bytes.len()));
        w.u32(7);
        w.array(8, |w| {
            for (code, kind, value) in fields {
                w.structure(|w| {
                    w.bytes.push(*code);
                    w.signature(kind);
                    // Of the types used here the widest is 8; the value was written at an alignment of 8.
                    w.align(alignment(kind.as_bytes()[0]).expect("a type"));
                    w.bytes.extend_from_slice(&value.bytes);
                });
            }
        });
        w.align(8);
        w.bytes.extend_from_slice(&body.bytes);
        w.bytes
    }

    fn text(t: &str) -> Writer {
        let mut w = Writer::default();
        w.string(t);
        w
    }

    fn number(n: u32) -> Writer {
        let mut w = Writer::default();
        w.u32(n);
        w
    }

    /// The bytes as `busctl` and the specification have them.
    #[test]
    fn a_call_is_laid_out_as_the_specification_says() {
        let mut body = Writer::default();
        body.string("é");
        body.u64(1);
        let bytes = CALL.encode(9, "st", &body);
        assert_eq!(&bytes[..16], &[b'l', 1, 0, 1, 16, 0, 0, 0, 9, 0, 0, 0, 88, 0, 0, 0]);
        assert_eq!(&bytes[16..28], b"\x01\x01o\0\x02\0\0\0/a\0\0");
        assert_eq!(&bytes[bytes.len() - 16..], b"\x02\0\0\0\xc3\xa9\0\0\x01\0\0\0\0\0\0\0");
        let m = Message::parse(&bytes).expect("whole");
        assert_eq!((m.kind, m.signature), (Kind::Call, "st"));
    }

    #[test]
    fn replies_errors_and_signals_are_told_apart() {
        let reply = message(2, &[(5, "u", number(3)), (7, "s", text(":1.0"))], &text("/job/1"));
        let m = Message::parse(&reply).expect("a reply");
        assert_eq!((m.kind, m.sender), (Kind::Return { to: 3 }, Some(":1.0")));
        assert_eq!(m.body.clone().string(), Some("/job/1"));
        let error = message(3, &[(4, "s", text("a.B")), (5, "u", number(3))], &Writer::default());
        let m = Message::parse(&error).expect("an error");
        assert_eq!(m.kind, Kind::Error { to: 3, name: "a.B" });
        let fields = [(1, "o", text("/p")), (2, "s", text("i.F")), (3, "s", text("M"))];
        let signal = message(4, &fields, &Writer::default());
        let kind = Kind::Signal { path: "/p", interface: "i.F", member: "M" };
        assert_eq!(Message::parse(&signal).expect("a signal").kind, kind);
        assert!(Message::parse(&message(2, &[], &Writer::default())).is_none(), "a reply to nothing");
        assert!(Message::parse(&message(2, &[(5, "s", text("3"))], &Writer::default())).is_none());
    }

    /// Header fields that are not known are passed over, whatever they hold.
    #[test]
    fn unknown_fields_are_skipped() {
        let mut deep = Writer::default();
        deep.array(8, |w| {
            w.structure(|w| {
                w.string("key");
                w.signature("(yat)");
                w.structure(|w| {
                    w.bytes.push(1);
                    w.array(8, |w| w.u64(5));
                });
            });
        });
        // Its position decides the padding, so it comes where 8 divides.
        let m = message(2, &[(200, "a{sv}", deep), (5, "u", number(1))], &Writer::default());
        assert_eq!(Message::parse(&m).map(|m| m.kind), Some(Kind::Return { to: 1 }));
        for bad in ["", "a", "()", "a()", "(y", "z", "yy", "a{", &"a".repeat(100), &"(".repeat(100)] {
            let m = message(2, &[(5, "u", number(1))], &Writer::default());
            let mut r = Reader { bytes: &m, at: 0, big: false };
            assert_eq!(r.skip_one(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn big_endian_peers_are_understood() {
        let bytes = b"B\x02\0\x01\0\0\0\x04\0\0\0\x01\0\0\0\x08\x05\x01u\0\0\0\0\x2a\0\0\0\x07";
        let mut m = Message::parse(bytes).expect("whole");
        assert_eq!((m.kind, m.body.u32()), (Kind::Return { to: 42 }, Some(7)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(strings in prop::collection::vec("[ -~é]{0,20}", 0..6), n: u64, serial in 1u32..) {
            let mut body = Writer::default();
            for s in &strings {
                body.string(s);
                body.u64(n);
            }
            let signature = "st".repeat(strings.len());
            let bytes = CALL.encode(serial, &signature, &body);
            prop_assert_eq!(message_size(bytes.first_chunk().expect("long enough")), Some(bytes.len()));
            let mut m = Message::parse(&bytes).expect("whole");
            prop_assert_eq!(m.signature, &signature);
            for s in &strings {
                prop_assert_eq!(m.body.string(), Some(s.as_str()));
                prop_assert!(m.body.skip_one("t").is_some());
            }
            prop_assert!(m.body.byte().is_none());
            // Cut anywhere, it is no message.
            for cut in 0..bytes.len() {
                prop_assert!(Message::parse(&bytes[..cut]).is_none());
            }
        }

        #[test]
        fn any_bytes_are_survived(mut bytes: Vec<u8>, at: prop::sample::Index, with: u8) {
            crate::fuzz::dbus(&bytes);
            let mut good = message(
                4,
                &[(1, "o", text("/p")), (2, "s", text("i.F")), (3, "s", text("M")), (9, "u", number(0))],
                &text("x"),
            );
            let n = at.index(good.len());
            good[n] = with;
            crate::fuzz::dbus(&good);
            bytes.splice(0..0, *b"l\x02\0\x01\0\0\0\0\x01\0\0\0");
            crate::fuzz::dbus(&bytes);
        }
    }
}
