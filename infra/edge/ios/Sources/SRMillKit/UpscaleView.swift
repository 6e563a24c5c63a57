import ExecuTorch
import PhotosUI
import SwiftUI

/// Lets the user choose a photo, upscales it, shows it, and shares it.
public struct UpscaleView: View {
    let bundle: URL
    let target: String

    @State private var chosen: PhotosPickerItem?
    @State private var work: Task<Void, Never>?
    @State private var result: URL?
    @State private var status = "Choose a photo to upscale."
    @State private var share = 0.0

    /// - Parameters:
    ///   - bundle: the directory that `srmill fetch` wrote, among the app's resources.
    ///   - target: an artifact of ExecuTorch.
    public init(bundle: URL, target: String = "executorch_int8") {
        self.bundle = bundle
        self.target = target
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
                AsyncImage(url: result) { $0.resizable().scaledToFit() } placeholder: { ProgressView() }
                ShareLink(item: result)
            }
        }
        .padding()
        .onChange(of: chosen) { _, item in
            if let item { start(item) }
        }
    }

    private func start(_ item: PhotosPickerItem) {
        result = nil
        work = Task {
            do {
                guard let photo = try await item.loadTransferable(type: Data.self) else {
                    throw Refused("this is no photo that can be read.")
                }
                result = try await upscaled(photo)
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
        let (bundle, target) = (bundle, target)
        let computing = Task.detached {
            let artifact = try Artifact(bundle: bundle, target: target)
            let module = Module(filePath: artifact.file.path(percentEncoded: false))
            try module.load("forward")
            let shape = [1, 3, artifact.tile, artifact.tile]
            let picture = try upscale(
                Pixels(photo: photo), tile: artifact.tile, scale: artifact.scale,
                model: { tile in
                    let made: Tensor<Float> = try module.forward(Tensor<Float>(tile, shape: shape))
                    return made.scalars()
                },
                progress: { done, all in
                    try Task.checkCancellation()
                    Task { @MainActor in
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
