// swift-tools-version: 5.9

import PackageDescription

let package = Package(
    name: "SRMillKit",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [.library(name: "SRMillKit", targets: ["SRMillKit"])],
    dependencies: [
        // ExecuTorch's releases are branches: take that of the version that wrote the artifact.
        .package(url: "https://github.com/pytorch/executorch.git", branch: "swiftpm-1.5.1")
    ],
    targets: [
        .target(
            name: "SRMillKit",
            dependencies: [
                .product(name: "executorch", package: "executorch"),
                .product(name: "backend_xnnpack", package: "executorch"),
                .product(name: "kernels_optimized", package: "executorch"),
                .product(name: "kernels_quantized", package: "executorch"),
            ],
            // Backends and kernels register themselves when they are loaded, and nothing calls them.
            linkerSettings: [.unsafeFlags(["-Wl,-all_load"])]
        )
    ]
)
