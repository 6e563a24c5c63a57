package srmill.kit

import java.io.Closeable
import java.io.DataOutputStream
import java.io.OutputStream
import java.util.zip.CRC32
import java.util.zip.Deflater
import java.util.zip.DeflaterOutputStream

/**
 * Writes an RGB picture a row at a time, in the PNG format (W3C, Portable Network Graphics).
 * Android's own encoder needs the whole picture in memory, which the result of a large photo fills.
 *
 * A picture is whole once `close` was called after its last row.
 */
class PngWriter(private val output: OutputStream, width: Int, height: Int) : Closeable {
    private val deflater = Deflater(Deflater.BEST_SPEED)
    private val rows = DeflaterOutputStream(Chunks(), deflater, 1 shl 16)
    private val filtered = ByteArray(1 + 3 * width)

    init {
        output.write(byteArrayOf(0x89.toByte(), 'P'.b, 'N'.b, 'G'.b, '\r'.b, '\n'.b, 0x1a, '\n'.b))
        val header = java.nio.ByteBuffer.allocate(13)
        header.putInt(width).putInt(height)
        header.put(byteArrayOf(8, 2, 0, 0, 0)) // 8 bits, RGB, nothing interlaced
        chunk("IHDR", header.array(), header.capacity())
    }

    /** Appends a row of RGB bytes. */
    fun write(row: ByteArray) {
        filtered[0] = 1 // what follows is the difference from the pixel to the left
        row.forEachIndexed { i, value ->
            filtered[i + 1] = if (i < 3) value else (value - row[i - 3]).toByte()
        }
        rows.write(filtered)
    }

    override fun close() {
        try {
            rows.finish()
            chunk("IEND", ByteArray(0), 0)
            output.flush()
        } finally {
            deflater.end()
        }
    }

    private fun chunk(name: String, data: ByteArray, length: Int) {
        val kind = name.toByteArray()
        val crc = CRC32().apply {
            update(kind)
            update(data, 0, length)
        }
        DataOutputStream(output).run {
            writeInt(length)
            write(kind)
            write(data, 0, length)
            writeInt(crc.value.toInt())
        }
    }

    /** Makes a chunk of what the deflater gives at a time. */
    private inner class Chunks : OutputStream() {
        override fun write(byte: Int) = write(byteArrayOf(byte.toByte()), 0, 1)

        override fun write(data: ByteArray, offset: Int, length: Int) =
            chunk("IDAT", data.copyOfRange(offset, offset + length), length)
    }

    private val Char.b
        get() = code.toByte()
}
