import CoreGraphics
import Foundation
import ImageIO
import UniformTypeIdentifiers

extension Pixels {
    /// Reads a photo, upright, as sRGB.
    ///
    /// - Throws: `Refused` where the data is no photo that can be read.
    public init(photo: Data) throws {
        let unread = Refused("this is no photo that can be read.")
        guard let source = CGImageSourceCreateWithData(photo as CFData, nil),
            let facts = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any],
            let stored = facts[kCGImagePropertyPixelWidth] as? Int,
            let rows = facts[kCGImagePropertyPixelHeight] as? Int
        else { throw unread }
        // A thumbnail of the photo's own size is the photo, turned as its EXIF says.
        let options: [CFString: Any] = [
            kCGImageSourceCreateThumbnailFromImageAlways: true,
            kCGImageSourceCreateThumbnailWithTransform: true,
            kCGImageSourceThumbnailMaxPixelSize: max(stored, rows),
        ]
        guard let image = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary),
            let context = CGContext(
                data: nil, width: image.width, height: image.height, bitsPerComponent: 8,
                bytesPerRow: 4 * image.width, space: CGColorSpace(name: CGColorSpace.sRGB)!,
                bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
        else { throw unread }
        context.draw(image, in: CGRect(x: 0, y: 0, width: image.width, height: image.height))
        guard let memory = context.data else { throw unread }
        let count = image.width * image.height
        var bytes = [UInt8]()
        bytes.reserveCapacity(3 * count)
        withExtendedLifetime(context) {
            let rgbx = UnsafeRawBufferPointer(start: memory, count: 4 * count)
            for pixel in 0..<count {
                bytes.append(contentsOf: rgbx[4 * pixel..<4 * pixel + 3])
            }
        }
        self.init(width: image.width, height: image.height, bytes: bytes)
    }

    /// Writes a PNG file, whole or not at all.
    ///
    /// - Throws: `Refused` where the file cannot be written.
    public func write(to file: URL) throws {
        let part = file.appendingPathExtension("part")
        defer { try? FileManager.default.removeItem(at: part) }
        let isWritten = bytes.withUnsafeBytes { memory in
            // The provider looks at the bytes until the file is whole.
            guard let start = memory.baseAddress,
                let provider = CGDataProvider(
                    dataInfo: nil, data: start, size: memory.count, releaseData: { _, _, _ in }),
                let image = CGImage(
                    width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 24,
                    bytesPerRow: 3 * width, space: CGColorSpace(name: CGColorSpace.sRGB)!,
                    bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.none.rawValue),
                    provider: provider, decode: nil, shouldInterpolate: false,
                    intent: .defaultIntent),
                let target = CGImageDestinationCreateWithURL(
                    part as CFURL, UTType.png.identifier as CFString, 1, nil)
            else { return false }
            CGImageDestinationAddImage(target, image, nil)
            return CGImageDestinationFinalize(target)
        }
        guard isWritten, rename(part.path, file.path) == 0 else {
            throw Refused("\(file.lastPathComponent) cannot be written.")
        }
    }
}

/// Returns a picture of at most `side` pixels on its longer side, to be shown.
func preview(of file: URL, side: Int) -> CGImage? {
    let options: [CFString: Any] = [
        kCGImageSourceCreateThumbnailFromImageAlways: true,
        kCGImageSourceThumbnailMaxPixelSize: side,
    ]
    return CGImageSourceCreateWithURL(file as CFURL, nil).flatMap {
        CGImageSourceCreateThumbnailAtIndex($0, 0, options as CFDictionary)
    }
}
