//! Netlink messages: writing them, and reading what came back without ever trusting a length.
//!
//! One codec of 200 lines serves rtnetlink, nf_tables and conntrack alike. The crates of the netlink-packet family were
//! tried first: they have no `nat`, `masq`, `reject`, `counter`, `log`, `range` or `fib` expression and no set elements,
//! refuse whole messages for one attribute of unexpected length, and would put a second codec beside the one that the
//! missing half needs anyway.

use crate::error::{Error, Result};

const HEADER: usize = 16;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = !(3 << 14);

/// A request under construction: header, the family's fixed part, attributes.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    buf: Vec<u8>,
    overflow: bool,
}

impl Message {
    /// `flags` are added to `NLM_F_REQUEST`.
    pub(crate) fn new(kind: u16, flags: i32) -> Self {
        let mut buf = vec![0; HEADER];
        buf[4..6].copy_from_slice(&kind.to_ne_bytes());
        // Netlink flags are 16 bits on the wire; libc spells them as int.
        let flags = (libc::NLM_F_REQUEST | flags) as u16;
        buf[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self { buf, overflow: false }
    }

    /// Appends the fixed part, which every family has right after the header.
    pub(crate) fn fixed(mut self, bytes: &[u8]) -> Self {
        self.buf.extend_from_slice(bytes);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
    }

    pub(crate) fn attr(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        self.nest_raw(kind, |m| m.buf.extend_from_slice(payload))
    }

    pub(crate) fn str(&mut self, kind: u16, text: &str) -> &mut Self {
        self.nest_raw(kind, |m| {
            m.buf.extend_from_slice(text.as_bytes());
            m.buf.push(0);
        })
    }

    /// A 32-bit number in host order, as rtnetlink has it.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A 32-bit number in network order, as netfilter has it.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.nest_raw(kind | NLA_F_NESTED, fill)
    }

    fn nest_raw(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 4]);
        fill(self);
        match u16::try_from(self.buf.len() - start) {
            Ok(len) => self.buf[start..start + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.overflow = true,
        }
        self.buf[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.pad();
        self
    }

    /// Raw bytes inside a nest: a fixed part that some attributes begin with (the veth peer's `ifinfomsg`).
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
        self.pad();
    }

    pub(crate) fn add_flags(&mut self, flags: i32) {
        let old = u16::from_ne_bytes([self.buf[6], self.buf[7]]);
        self.buf[6..8].copy_from_slice(&(old | flags as u16).to_ne_bytes());
    }

    /// The finished bytes, numbered `seq`.
    ///
    /// # Errors
    /// An attribute is longer than its 16-bit length field can say.
    pub(crate) fn finish(mut self, seq: u32) -> Result<Vec<u8>> {
        let len = u32::try_from(self.buf.len()).ok().filter(|_| !self.overflow).ok_or_else(|| {
            Error::invalid("netlink message", "one attribute exceeds 65535 bytes: split the rule or the list")
        })?;
        self.buf[0..4].copy_from_slice(&len.to_ne_bytes());
        self.buf[8..12].copy_from_slice(&seq.to_ne_bytes());
        Ok(self.buf)
    }
}

/// A message that the kernel sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reply<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    pub(crate) body: &'a [u8],
}

/// Cuts a datagram into messages.
///
/// # Errors
/// A length points outside the datagram.
pub(crate) fn split(mut data: &[u8]) -> Result<Vec<Reply<'_>>> {
    let mut out = Vec::new();
    while !data.is_empty() {
        let len = be_ne_u32(data, 0).ok_or_else(|| Error::malformed("netlink header"))? as usize;
        if len < HEADER || len > data.len() {
            return Err(Error::malformed("netlink message length"));
        }
        out.push(Reply {
            kind: u16::from_ne_bytes([data[4], data[5]]),
            flags: u16::from_ne_bytes([data[6], data[7]]),
            seq: be_ne_u32(data, 8).unwrap_or_default(),
            body: &data[HEADER..len],
        });
        data = data.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(out)
}

fn be_ne_u32(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

impl<'a> Reply<'a> {
    /// The family's fixed part and the attributes behind it.
    pub(crate) fn parts(&self, fixed: usize) -> Result<(&'a [u8], Attrs<'a>)> {
        let body = self.body;
        let head = body.get(..fixed).ok_or_else(|| Error::malformed("netlink message: fixed part"))?;
        let rest = body.get(fixed.next_multiple_of(4)..).unwrap_or_default();
        Ok((head, Attrs::parse(rest)?))
    }

    /// For `NLMSG_ERROR`: what the kernel says to a request.
    pub(crate) fn status(&self) -> Result<Status> {
        const NLM_F_CAPPED: u16 = 0x100;
        const NLM_F_ACK_TLVS: u16 = 0x200;
        const NLMSGERR_ATTR_MSG: u16 = 1;
        const NLMSGERR_ATTR_OFFS: u16 = 2;
        let code = be_ne_u32(self.body, 0).ok_or_else(|| Error::malformed("netlink error message"))? as i32;
        let (mut note, mut offset) = (None, None);
        if self.flags & NLM_F_ACK_TLVS != 0 {
            // Behind the errno: the offending header, with its payload unless capped.
            let echoed = if self.flags & NLM_F_CAPPED != 0 {
                HEADER
            } else {
                be_ne_u32(self.body, 4).unwrap_or_default() as usize
            };
            let tail = self.body.get(4 + echoed.next_multiple_of(4)..).unwrap_or_default();
            if let Ok(attrs) = Attrs::parse(tail) {
                note = attrs.text(NLMSGERR_ATTR_MSG);
                offset = attrs.u32(NLMSGERR_ATTR_OFFS).map(|offset| offset as usize);
            }
        }
        Ok(Status { errno: code.saturating_neg(), note, offset })
    }
}

/// An acknowledgement, with what an extended one adds.
#[derive(Debug)]
pub(crate) struct Status {
    /// 0 is success.
    pub(crate) errno: i32,
    /// The kernel's own words.
    pub(crate) note: Option<String>,
    /// Where in the request, from its header on, the attribute begins that the kernel did not like.
    pub(crate) offset: Option<usize>,
}

/// Attributes, each cut out once; asking for one never fails, it is just absent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attrs<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Attrs<'a> {
    pub(crate) fn parse(mut data: &'a [u8]) -> Result<Self> {
        let mut out = Vec::new();
        while data.len() >= 4 {
            let len = usize::from(u16::from_ne_bytes([data[0], data[1]]));
            let kind = u16::from_ne_bytes([data[2], data[3]]) & NLA_TYPE_MASK;
            let payload = data.get(4..len).ok_or_else(|| Error::malformed("netlink attribute length"))?;
            out.push((kind, payload));
            data = data.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(Self(out))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, &'a [u8])> + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.0.iter().find(|(k, _)| *k == kind).map(|(_, payload)| *payload)
    }

    /// The attributes inside one; empty when it is absent.
    pub(crate) fn nested(&self, kind: u16) -> Result<Attrs<'a>> {
        self.get(kind).map_or_else(|| Ok(Attrs::default()), Attrs::parse)
    }

    pub(crate) fn u8(&self, kind: u16) -> Option<u8> {
        self.get(kind)?.first().copied()
    }

    pub(crate) fn u16(&self, kind: u16) -> Option<u16> {
        self.get(kind)?.try_into().ok().map(u16::from_ne_bytes)
    }

    pub(crate) fn be16(&self, kind: u16) -> Option<u16> {
        self.get(kind)?.try_into().ok().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_ne_bytes)
    }

    pub(crate) fn be32(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(crate) fn be64(&self, kind: u16) -> Option<u64> {
        self.get(kind)?.try_into().ok().map(u64::from_be_bytes)
    }

    pub(crate) fn addr(&self, kind: u16) -> Option<std::net::IpAddr> {
        ip(self.get(kind)?)
    }

    /// A string up to its NUL.
    pub(crate) fn text(&self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

/// Four or sixteen bytes as an address.
pub(crate) fn ip(bytes: &[u8]) -> Option<std::net::IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(Into::into)
}

/// An address as four or sixteen bytes.
pub(crate) fn ip_bytes(addr: std::net::IpAddr) -> Vec<u8> {
    match addr {
        std::net::IpAddr::V4(a) => a.octets().to_vec(),
        std::net::IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// `AF_INET` or `AF_INET6`.
pub(crate) fn family_of(addr: std::net::IpAddr) -> u8 {
    (if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn writes_what_it_reads() {
        let mut m = Message::new(20, libc::NLM_F_ACK).fixed(&[7; 4]);
        m.str(1, "abc").nest(2, |m| {
            m.u32(3, 9).be32(4, 10);
        });
        let bytes = m.finish(42).unwrap();
        let replies = split(&bytes).unwrap();
        assert_eq!((replies.len(), replies[0].kind, replies[0].seq), (1, 20, 42));
        let (fixed, attrs) = replies[0].parts(4).unwrap();
        assert_eq!(fixed, [7; 4]);
        assert_eq!(attrs.text(1).as_deref(), Some("abc"));
        let inner = attrs.nested(2).unwrap();
        assert_eq!((inner.u32(3), inner.be32(4), inner.u32(5)), (Some(9), Some(10), None));
    }

    #[test]
    fn an_attribute_too_long_is_an_error() {
        let mut m = Message::new(1, 0);
        m.attr(1, &vec![0; 65532]);
        assert!(m.finish(1).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(replies) = split(&data) {
                for reply in replies {
                    let _ = reply.status();
                    let _ = reply.parts(16);
                }
            }
            let _ = Attrs::parse(&data);
        }
    }
}
