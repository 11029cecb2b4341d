//! Generates the gRPC code from the `.proto` files, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=hearth");
    let descriptors =
        protox::compile(["hearth/collector/v1/collector.proto", "hearth/config/v1/config.proto"], ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
