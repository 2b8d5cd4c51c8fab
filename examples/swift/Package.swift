// swift-tools-version:5.10
// A client of `mlx-gptoss serve` for Swift: macOS 13 and newer, and Linux.
import PackageDescription

let package = Package(
    name: "GptOss",
    platforms: [.macOS(.v13)],
    products: [
        .library(name: "GptOss", targets: ["GptOss"]),
        .executable(name: "ask", targets: ["ask"]),
        .executable(name: "GptOssChat", targets: ["GptOssChat"]),
    ],
    targets: [
        .target(name: "GptOss"),
        .executableTarget(name: "ask", dependencies: ["GptOss"]),
        .executableTarget(name: "GptOssChat", dependencies: ["GptOss"]),
        .testTarget(name: "GptOssTests", dependencies: ["GptOss"]),
    ]
)
