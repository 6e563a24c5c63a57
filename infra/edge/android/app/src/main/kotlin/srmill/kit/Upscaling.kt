package srmill.kit

import kotlin.math.max
import kotlin.math.min
import kotlin.math.roundToInt

/** A photo, read a row at a time. */
interface Photo {
    val width: Int
    val height: Int

    /** Writes the pixels of a row, as 0xAARRGGBB. */
    fun read(row: Int, pixels: IntArray)
}

/** Maps a tile `[3, tile, tile]` to one `[3, scale·tile, scale·tile]`, both RGB in [0, 1]. */
fun interface Model {
    fun run(tile: FloatArray): FloatArray
}

/**
 * Upscales a photo. One row of tiles lies in memory, as floats.
 *
 * @param progress called after each row of tiles with the number that is done, and the number of
 *   all. What it or `model` throws ends the work.
 * @param write called with each row of the result in turn, as RGB bytes. The array is used again.
 * @throws Refused the photo is too wide, or the artifact makes no such tiles.
 */
fun upscale(
    photo: Photo,
    model: Model,
    tile: Int,
    scale: Int,
    progress: (Int, Int) -> Unit,
    write: (ByteArray) -> Unit,
) {
    val side = tile * scale
    val rows = Axis(photo.height, tile, scale)
    val columns = Axis(photo.width, tile, scale)
    val width = 3 * columns.pixels
    if (side.toLong() * width > Int.MAX_VALUE) {
        throw Refused("the photo is too wide: cut it.")
    }
    val strip = Array(tile) { IntArray(photo.width) }
    val band = FloatArray(side * width)
    val line = ByteArray(3 * photo.width * scale)
    rows.starts.forEachIndexed { r, top ->
        strip.forEachIndexed { y, pixels -> photo.read(mirrored(top + y, photo.height), pixels) }
        columns.starts.forEachIndexed { k, left ->
            val made = model.run(cut(strip, left, tile, photo.width))
            if (made.size != 3 * side * side) {
                throw Refused("the artifact does not make what bundle.json says: fetch it again.")
            }
            for (c in 0 until 3) {
                for (y in 0 until side) {
                    val from = (c * side + y) * side
                    val to = y * width + 3 * left * scale + c
                    for (x in 0 until side) {
                        band[to + 3 * x] +=
                            made[from + x] * rows.weights[r][y] * columns.weights[k][x]
                    }
                }
            }
        }
        // The rows above the next tiles are whole.
        val done = (rows.starts.getOrNull(r + 1) ?: (top + tile)) * scale - top * scale
        for (y in 0 until min(done, photo.height * scale - top * scale)) {
            for (x in line.indices) {
                val value = band[y * width + x]
                if (value.isNaN()) {
                    throw Refused("the artifact makes no numbers of this photo: take another one.")
                }
                line[x] = (value.coerceIn(0f, 1f) * 255).roundToInt().toByte()
            }
            write(line)
        }
        band.copyInto(band, 0, done * width)
        band.fill(0f, band.size - done * width)
        progress(r + 1, rows.starts.size)
    }
}

private fun cut(strip: Array<IntArray>, left: Int, tile: Int, width: Int): FloatArray {
    val cut = FloatArray(3 * tile * tile)
    for (y in 0 until tile) {
        for (x in 0 until tile) {
            val pixel = strip[y][mirrored(left + x, width)]
            for (c in 0 until 3) {
                cut[(c * tile + y) * tile + x] = (pixel shr (16 - 8 * c) and 0xff) / 255f
            }
        }
    }
    return cut
}

/** A photo that is smaller than a tile is mirrored at its lower and right border. */
private fun mirrored(i: Int, length: Int): Int {
    val period = max(1, 2 * (length - 1))
    val j = i % period
    return if (j < length) j else period - j
}

/**
 * The tiles along one side of a photo: where each begins in LR, and how much each of its HR pixels
 * counts. Neighbours share a quarter at least. The weights of a pixel sum to one.
 */
private class Axis(length: Int, tile: Int, scale: Int) {
    private val covered = max(length, tile)

    /** The number of HR pixels that the tiles cover. */
    val pixels = covered * scale
    val starts: List<Int>
    val weights: List<FloatArray>

    init {
        val overlap = tile / 4
        val step = tile - overlap
        val count = (covered - overlap + step - 1) / step
        val side = tile * scale
        val ramp = FloatArray(side) { min(1f, (min(it, side - 1 - it) + .5f) / (overlap * scale)) }
        starts = List(count) { min(it * step, covered - tile) }
        val sum = FloatArray(pixels)
        for (start in starts) {
            for (i in 0 until side) {
                sum[start * scale + i] += ramp[i]
            }
        }
        weights = starts.map { start -> FloatArray(side) { ramp[it] / sum[start * scale + it] } }
    }
}
