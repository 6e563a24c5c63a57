import ExecuTorch
import PhotosUI
import SwiftUI

/// Lets the user choose a photo, upscales it, shows it, and shares it.
public struct UpscaleView: View {
    let bundle: URL
    let target: String
    let publicKey: String?

    @State private var chosen: PhotosPickerItem?
    @State private var work: Task<Void, Never>?
    @State private var result: URL?
    @State private var shown: CGImage?
    @State private var status = "Choose a photo to upscale."
    @State private var share = 0.0

    /// - Parameters:
    ///   - bundle: the directory that `srmill fetch` wrote, among the app's resources.
    ///   - target: an artifact of ExecuTorch.
    ///   - publicKey: the key that the bundle must be signed by (ed25519, PEM); nil to take any.
    public init(bundle: URL, target: String = "executorch_int8", publicKey: String? = nil) {
        self.bundle = bundle
        self.target = target
        self.publicKey = publicKey
    }

    public var body: some View {
        VStack {
            PhotosPicker("Choose a photo", selection: $chosen, matching: .images)
                .disabled(work != nil)
            Button("Cancel") { work?.cancel() }
                .disabled(work == nil)
            Text(status)
            ProgressView(value: share)
            if let result {
                if let shown {
                    Image(decorative: shown, scale: 1).resizable().scaledToFit()
                }
                ShareLink(item: result)
            }
        }
        .padding()
        .onChange(of: chosen) { _, item in
            if let item { start(item) }
        }
        .onDisappear { work?.cancel() }
    }

    @MainActor
    private func start(_ item: PhotosPickerItem) {
        if let result { try? FileManager.default.removeItem(at: result) }
        result = nil
        work = Task {
            do {
                guard let photo = try await item.loadTransferable(type: Data.self) else {
                    throw Refused("this is no photo that can be read.")
                }
                let file = try await upscaled(photo)
                (shown, result) = (preview(of: file, side: 2048), file)
                status = "The picture is ready."
            } catch is CancellationError {
                status = "Cancelled."
            } catch {
                status = error.localizedDescription
            }
            (work, share, chosen) = (nil, 0, nil)
        }
    }

    /// Upscales a photo beside the screen's thread, and returns the picture's file.
    private func upscaled(_ photo: Data) async throws -> URL {
        let (bundle, target, publicKey) = (bundle, target, publicKey)
        let computing = Task.detached {
            let artifact = try Artifact(bundle: bundle, target: target, publicKey: publicKey)
            let module = Module(filePath: artifact.file.path(percentEncoded: false))
            try module.load("forward")
            let shape = [1, 3, artifact.tile, artifact.tile]
            let picture = try upscale(
                Pixels(photo: photo), tile: artifact.tile, scale: artifact.scale,
                model: { tile in
                    try Task.checkCancellation()
                    let made: Tensor<Float> = try module.forward(Tensor<Float>(tile, shape: shape))
                    return made.scalars()
                },
                progress: { done, all in
                    Task { @MainActor in
                        guard work != nil else { return }
                        share = Double(done) / Double(all)
                        status = "\(done) of \(all) rows of tiles"
                    }
                })
            let file = URL.temporaryDirectory.appending(path: "\(UUID().uuidString).png")
            try picture.write(to: file)
            return file
        }
        return try await withTaskCancellationHandler {
            try await computing.value
        } onCancel: {
            computing.cancel()
        }
    }
}
