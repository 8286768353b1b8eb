//! For the labs of networks: namespaces with cables between them, and traffic to try them with.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use palisade::net::{IfName, LinkKind, LinkSettings, Netns};

use crate::lab::{Result, skip};

/// For what must answer; the test machine is slow.
pub(crate) const PATIENT: Duration = Duration::from_secs(20);
/// For what must stay silent.
pub(crate) const SHORT: Duration = Duration::from_millis(400);

pub(crate) fn name(text: &str) -> Result<IfName> {
    Ok(IfName::new(text)?)
}

/// A namespace with its loopback up.
pub(crate) fn space() -> Result<Netns> {
    let space = Netns::create()?;
    up(&space, "lo")?;
    Ok(space)
}

pub(crate) fn up(space: &Netns, link: &str) -> Result {
    Ok(space.set_link(&name(link)?, &LinkSettings::new().up())?)
}

/// Addresses of both families in networks of 24 and 64 bits, and the link up.
pub(crate) fn address(space: &Netns, link: &str, addresses: &[IpAddr]) -> Result {
    for addr in addresses {
        space.add_address(&name(link)?, *addr, if addr.is_ipv4() { 24 } else { 64 })?;
    }
    up(space, link)
}

/// Two namespaces at the ends of one cable, `eth0` in each.
pub(crate) fn pair(first: impl Into<IpAddr>, second: impl Into<IpAddr>) -> Result<(Netns, Netns)> {
    let (one, other) = (space()?, space()?);
    let eth0 = name("eth0")?;
    one.add_veth(&eth0, &other, &eth0)?;
    address(&one, "eth0", &[first.into()])?;
    address(&other, "eth0", &[second.into()])?;
    one.wait_ready(&eth0, PATIENT)?;
    other.wait_ready(&eth0, PATIENT)?;
    Ok((one, other))
}

/// A namespace whose `eth0` hangs on the bridge `br0` of `switch`, by a cable that is called `port` there.
pub(crate) fn plug(switch: &Netns, port: &str, addresses: &[IpAddr]) -> Result<Netns> {
    let plugged = space()?;
    let (port, eth0) = (name(port)?, name("eth0")?);
    switch.add_veth(&port, &plugged, &eth0)?;
    switch.set_link(&port, &LinkSettings::new().master(name("br0")?).up())?;
    address(&plugged, "eth0", addresses)?;
    switch.wait_ready(&port, PATIENT)?;
    plugged.wait_ready(&eth0, PATIENT)?;
    Ok(plugged)
}

/// A namespace with a bridge `br0`.
pub(crate) fn switch(addresses: &[IpAddr]) -> Result<Netns> {
    let switch = space()?;
    switch.add_link(&name("br0")?, &LinkKind::Bridge)?;
    address(&switch, "br0", addresses)?;
    Ok(switch)
}

/// Answers each TCP connection with the client's address, until the lab ends.
pub(crate) fn serve(space: &Netns, port: u16) -> Result {
    let listener = space.run(|| TcpListener::bind(("::", port)))??;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let peer = stream.peer_addr().map_or(String::new(), |peer| peer.ip().to_canonical().to_string());
            drop(stream.write_all(peer.as_bytes()));
        }
    });
    Ok(())
}

/// Sends each datagram back, until the lab ends.
pub(crate) fn echo(space: &Netns, port: u16) -> Result {
    let socket = space.run(|| UdpSocket::bind(("::", port)))??;
    thread::spawn(move || {
        let mut datagram = [0; 512];
        while let Ok((len, peer)) = socket.recv_from(&mut datagram) {
            drop(socket.send_to(&datagram[..len], peer));
        }
    });
    Ok(())
}

/// Connects and gives what the server says.
pub(crate) fn ask(
    space: &Netns,
    to: (impl Into<IpAddr>, u16),
    patience: Duration,
) -> Result<io::Result<String>> {
    let to = SocketAddr::new(to.0.into(), to.1);
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(PATIENT))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    Ok(space.run(ask)?)
}

/// Sends a datagram and waits for its echo.
pub(crate) fn ask_udp(
    space: &Netns,
    to: (impl Into<IpAddr>, u16),
    patience: Duration,
) -> Result<io::Result<()>> {
    let to = SocketAddr::new(to.0.into(), to.1);
    let ask = || {
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(patience))?;
        socket.send(b"ping")?;
        socket.recv(&mut [0; 16]).map(drop)
    };
    Ok(space.run(ask)?)
}

/// Whether an ICMP echo comes back within two seconds.
pub(crate) fn ping(space: &Netns, to: impl Into<IpAddr>) -> Result<bool> {
    let to = to.into().to_string();
    match space.run(|| Command::new("ping").args(["-n", "-c1", "-W2", &to]).output())? {
        Ok(out) => Ok(out.status.success()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(skip("no ping (package iputils-ping)")),
        Err(error) => Err(error.into()),
    }
}

/// In a word what came of a connection.
pub(crate) fn word(answer: &io::Result<String>) -> String {
    match answer {
        Ok(said) => format!("answer to {said}"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => "refused".into(),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => "silence".into(),
        Err(error) => error.to_string(),
    }
}
