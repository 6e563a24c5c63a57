import Foundation

/// RGB bytes, row by row.
public struct Pixels {
    public let width: Int
    public let height: Int
    public var bytes: [UInt8]
}

/// Maps a tile `[3, tile, tile]` to one `[3, scale·tile, scale·tile]`, both RGB in [0, 1].
public typealias Model = ([Float]) throws -> [Float]

/// The most pixels that a result may have: it lies in memory as a whole, three bytes for each.
public let mostPixels = 100_000_000

/// Upscales a photo. Beside the result, one row of tiles lies in memory, as floats.
///
/// - Parameter progress: called after each row of tiles with the number that is done, and the number
///   of all.
/// - Throws: `Refused` where the result would be too large or the model makes no such tiles, and what
///   `model` and `progress` throw.
public func upscale(
    _ photo: Pixels, tile: Int, scale: Int, model: Model,
    progress: (Int, Int) throws -> Void = { _, _ in }
) throws -> Pixels {
    let megapixels = photo.width * photo.height * scale * scale / 1_000_000
    guard megapixels * 1_000_000 <= mostPixels else {
        throw Refused("the result would have \(megapixels) megapixels: choose a smaller photo.")
    }
    let side = tile * scale
    let rows = Axis(length: photo.height, tile: tile, scale: scale)
    let columns = Axis(length: photo.width, tile: tile, scale: scale)
    let width = 3 * columns.pixels
    var band = [Float](repeating: 0, count: side * width)
    var result = Pixels(width: photo.width * scale, height: photo.height * scale, bytes: [])
    result.bytes.reserveCapacity(3 * result.width * result.height)
    for (r, top) in rows.starts.enumerated() {
        for (k, left) in columns.starts.enumerated() {
            let made = try model(cut(photo, top: top, left: left, tile: tile))
            guard made.count == 3 * side * side else {
                throw Refused("the artifact does not make what bundle.json says: fetch it again.")
            }
            for c in 0..<3 {
                for y in 0..<side {
                    let from = (c * side + y) * side
                    let to = y * width + 3 * left * scale + c
                    for x in 0..<side {
                        band[to + 3 * x] +=
                            made[from + x] * rows.weights[r][y] * columns.weights[k][x]
                    }
                }
            }
        }
        // The rows above the next tiles are whole.
        let next = r + 1 < rows.starts.count ? rows.starts[r + 1] : top + tile
        let done = (next - top) * scale
        for y in 0..<min(done, result.height - top * scale) {
            for x in 0..<(3 * result.width) {
                let value = band[y * width + x]
                guard !value.isNaN else {
                    throw Refused("the artifact makes no numbers of this photo: take another one.")
                }
                result.bytes.append(UInt8((min(max(value, 0), 1) * 255).rounded()))
            }
        }
        band.removeFirst(done * width)
        band.append(contentsOf: repeatElement(0, count: done * width))
        try progress(r + 1, rows.starts.count)
    }
    return result
}

private func cut(_ photo: Pixels, top: Int, left: Int, tile: Int) -> [Float] {
    var cut = [Float](repeating: 0, count: 3 * tile * tile)
    for y in 0..<tile {
        let row = mirrored(top + y, photo.height) * photo.width
        for x in 0..<tile {
            let pixel = 3 * (row + mirrored(left + x, photo.width))
            for c in 0..<3 {
                cut[(c * tile + y) * tile + x] = Float(photo.bytes[pixel + c]) / 255
            }
        }
    }
    return cut
}

/// A photo that is smaller than a tile is mirrored at its lower and right border.
private func mirrored(_ i: Int, _ length: Int) -> Int {
    let period = max(1, 2 * (length - 1))
    let j = i % period
    return j < length ? j : period - j
}

/// The tiles along one side of a photo: where each begins in LR, and how much each of its HR pixels
/// counts. Neighbours share a quarter at least. The weights of a pixel sum to one.
private struct Axis {
    /// The number of HR pixels that the tiles cover.
    let pixels: Int
    let starts: [Int]
    let weights: [[Float]]

    init(length: Int, tile: Int, scale: Int) {
        let covered = max(length, tile)
        let overlap = tile / 4
        let step = tile - overlap
        let count = (covered - overlap + step - 1) / step
        let side = tile * scale
        let ramp = (0..<side).map { i in
            min(1, (Float(min(i, side - 1 - i)) + 0.5) / Float(overlap * scale))
        }
        let starts = (0..<count).map { min($0 * step, covered - tile) }
        var sum = [Float](repeating: 0, count: covered * scale)
        for start in starts {
            for i in 0..<side {
                sum[start * scale + i] += ramp[i]
            }
        }
        self.starts = starts
        pixels = covered * scale
        weights = starts.map { start in (0..<side).map { ramp[$0] / sum[start * scale + $0] } }
    }
}
