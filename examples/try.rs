fn main() -> Result<(), Box<dyn std::error::Error>> {
    let s = palisade::Sandbox::new()?;
    let mut c = s.command(std::env::args().nth(1).unwrap_or("/bin/echo".into()));
    c.args(std::env::args().skip(2));
    if std::env::var_os("PLAN").is_some() { println!("{}", c.plan()?); println!("{}", c.plan()?.child_calls()); }
    let t = std::time::Instant::now();
    let o = c.output()?;
    println!("{:?} {}\n{}{}", t.elapsed(), o.status, String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
    for _ in 0..5 { let t = std::time::Instant::now(); c.output()?; println!("{:?}", t.elapsed()); }
    Ok(())
}
