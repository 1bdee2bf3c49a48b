"""Reader of a raster's windows as model input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.windows import Window as GdalWindow

from rsedge.errors import InputError, RsedgeError
from rsedge.raster import blocks, buffers, opening, values
from rsedge.raster.band_plan import BandPlan
from rsedge.raster.grid import unreferenced_allowed
from rsedge.raster.orientation import read_orientation
from rsedge.raster.trust import NAMED, Check, Trust
from rsedge.raster.values import Pixels, Valid
from rsedge.tiling.window import Window

BLOCK_OVERHEAD_BYTES = 512  # upper bound of what GDAL's cache counts for a block besides its pixels
SCALED_BYTES, PALETTE_BYTES = 24, 12  # per pixel of a piece: two float64 and masks; an index and a mask
# Otherwise GDAL decodes a PNG in one go, and reports no error if the file is truncated.
HONEST = {"GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO"}
OF_FILES = {"VRT", "SENTINEL2", "DIMAP", "GTI", "STACIT", "TIL"}  # drivers that read other rasters
ASKED_AGAIN = {"PNG", "VRT"}  # drivers that consult GDAL's settings while reading
SOURCES_ASKED = 4  # sources of a VRT that are opened for their block height and decoding memory


class RasterReader:
    """A raster opened for reading by window. Not safe for two threads at once.

    ``threads``: number of threads that decode the blocks of one request, for GeoTIFF only. ``trust``: which files
    the raster may open; by default those of a raster that the user names.

    Raises InputError if GDAL cannot read the path or the raster reads files that it may not, and, while reading,
    if the raster is damaged.
    """

    def __init__(self, path: Path | str, threads: int = 1, trust: Trust = NAMED) -> None:
        self.path, self._threads = str(path), threads
        check = Check(self.path, trust)
        self._options = check.options
        with opening.readable(self.path), unreferenced_allowed(), rasterio.Env(**HONEST, **self._options):
            self._src = opening.open_source(check, threads)
            # misplaced: notes on a georeference that cannot be used
            self.grid, self.misplaced = opening.place(self._src)
            self.notes: tuple[str, ...] = (*self.misplaced, *opening.pages(self._src, self.path))
            self.color_interp: tuple[ColorInterp, ...] = opening.color_interp(self._src)
            self.dtypes: tuple[str, ...] = self._src.dtypes
            self.nodata: float | None = self._src.nodata  # of the first band

    def __enter__(self) -> RasterReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._src.close()

    @property
    def row_of_blocks_bytes(self) -> int:
        """Return the bytes of one row of stored blocks, all bands."""
        return self.block_shape[0] * int(self._src.width) * self._pixel_bytes(range(1, len(self.dtypes) + 1))

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """Every file the raster is read from, including side files, a VRT's sources and nested sources."""
        with opening.readable(self.path), rasterio.Env(**self._options):
            return tuple(Path(f) for f in opening.files_of(self._src))

    @property
    def stored_bits(self) -> tuple[int, ...]:
        """Return the bits per value of each band: those that the file declares, else those of the dtype."""
        with opening.readable(self.path):
            said = [
                self._src.tags(i, ns="IMAGE_STRUCTURE").get("NBITS") for i in range(1, len(self.dtypes) + 1)
            ]
            pairs = zip(said, self.dtypes, strict=True)
            return tuple(int(bits) if bits else 8 * buffers.pixel_bytes([dtype]) for bits, dtype in pairs)

    @property
    def decodes_from_start(self) -> bool:
        """Return True if reading one row decodes all rows above."""
        return buffers.decodes_from_start(self._src)

    @property
    def stored_size(self) -> tuple[int, int]:
        """Return rows and columns of the raster as stored, also if it is read on another grid."""
        return int(self._src.height), int(self._src.width)

    @cached_property
    def orientation(self) -> int:
        """EXIF orientation by which viewers turn the picture, 1 (not turned) to 8; pixels are read as stored."""
        with opening.readable(self.path):
            return read_orientation(self._src)

    def colormap(self) -> dict[int, tuple[int, ...]] | None:
        """Return the palette of the first band, value to RGBA; None if the band has no palette."""
        try:
            return dict(self._src.colormap(1))
        except ValueError:
            return None

    def row_strips(self, area: Window, most_rows: int = blocks.MOST_ROWS) -> tuple[Window, ...]:
        """Return windows that tile ``area`` top down, full width, each of at most ``most_rows`` rows.

        Read in this order, with a cache of `cache_bytes`, every stored block is decoded once: strips end
        where blocks end, and blocks higher than ``most_rows`` are cut but never joined.
        """
        return tuple(self.iter_strips(area, most_rows))

    def iter_strips(self, area: Window, most_rows: int = blocks.MOST_ROWS) -> Iterator[Window]:
        """Iterate over the `row_strips` of ``area``; a narrow raster may have millions."""
        return blocks.iter_strips(area, self._strip_unit, most_rows)

    def first_strips(self, area: Window, most_rows: int = blocks.MOST_ROWS) -> tuple[Window, ...]:
        """Return the first of the `row_strips`, including one of the greatest height."""
        return blocks.first_strips(area, self._strip_unit, most_rows)

    @property
    def _strip_unit(self) -> int:
        """Return the number of rows that strips are multiples of."""
        return self.block_shape[0]

    def cache_bytes(
        self, area: Window, plan: BandPlan | None = None, most_rows: int = blocks.MOST_ROWS
    ) -> int:
        """Return the bytes that GDAL's cache must hold for `row_strips` of ``area`` to decode each block once.

        0 if every strip consists of whole blocks. Else one row of the blocks that touch the area's columns: of
        all bands if they are interleaved, else of those that ``plan`` reads (None: all). For a VRT, which does
        not tell where its sources' blocks end, an upper bound.
        """
        strips = self.first_strips(area, most_rows)
        if self._src.driver == "VRT":
            return self._unaligned_cache_bytes(area, plan, strips[0].height)
        cut = any(strip.row_end % self.block_shape[0] for strip in strips[:-1])
        return self._held_bytes(area, plan, self.block_shape[0]) if cut else 0

    def extra_bytes(self, area: Window, plan: BandPlan) -> int:
        """Return an upper bound of the bytes to read one strip of ``area``, without the strip and GDAL's cache.

        Counts the strip as stored if a scale, palette or alpha is applied, masks, pieces of float64, and the
        memory of the format's decoder.
        """
        rows = max(strip.height for strip in self.first_strips(area))
        return self._beside_bytes(rows, area.width, plan) + self._decoder_bytes

    def may_have_nodata(self, plan: BandPlan) -> bool:
        """Return True if a pixel can be without data; if False, `read_into` never fills ``valid``."""
        floats = any(not self.dtypes[i - 1].startswith(("int", "uint")) for i in plan.indexes)
        return bool(
            floats
            or self._nodata(plan)
            or self._alphas(plan)
            or self._masks(plan)
            or (plan.palette and self._palette_has_holes(plan))
        )

    def read(self, window: Window, plan: BandPlan) -> tuple[Pixels, Valid]:
        """Return pixels (bands, h, w) in the model's dtype, and a mask of those that hold data, (h, w).

        A pixel holds no data if the alpha or mask band, or the own mask of any chosen band, is 0; if every
        chosen band has its nodata value; if one is NaN or infinite; or if its colour of the palette is
        transparent.
        """
        shape = window.height, window.width
        image, valid = np.empty((plan.outputs, *shape), plan.dtype), np.empty(shape, np.bool_)
        if self.read_into(window, plan, image, valid):
            valid.fill(True)
        return image, valid

    def read_into(self, window: Window, plan: BandPlan, image: Pixels, valid: Valid) -> bool:
        """Read into ``image`` (bands, h, w), C-contiguous, in the model's dtype, and ``valid`` (h, w).

        Returns True if every pixel holds data, as defined by `read`; ``valid`` must then not be used, because
        it may not have been filled. Values are mapped by the plan's scale or palette; without scale, palette
        and alpha no second array of the image's size is allocated.

        Raises InputError if the raster is damaged, ValueError if an array does not fit.
        """
        self._check_fit(window, plan, image, valid)
        maybe, alphas = self.may_have_nodata(plan), self._alphas(plan)
        in_place = plan.scale is None and not plan.palette and not alphas
        stored = self._read_bands((*plan.indexes, *alphas), window, image if in_place else None)
        if maybe:
            self._find_valid(stored, window, plan, valid)
        self._map(stored[: len(plan.indexes)], plan, image, valid if maybe else None)
        return not maybe or bool(valid.all())

    def read_stored(self, window: Window, plan: BandPlan) -> tuple[Pixels, Valid]:
        """Return the plan's bands as stored (bands, h, w), on the raster's own grid, and the valid pixels (h, w).

        Neither scale nor palette is applied. Raises InputError if the raster is damaged.
        """
        stored = self._read_bands((*plan.indexes, *self._alphas(plan)), window)
        valid = np.empty((window.height, window.width), np.bool_)
        self._find_valid(stored, window, plan, valid)
        return stored[: len(plan.indexes)], valid

    def read_bands(self, window: Window, indexes: Sequence[int]) -> Pixels:
        """Return bands, 1-based, as stored, (bands, h, w), on the raster's own grid."""
        return self._read_bands(tuple(indexes), window)

    def read_raw(self, window: Window) -> Pixels:
        """Return all bands as stored, (bands, h, w)."""
        return self._guard(lambda w: self._src.read(window=w), window)

    @cached_property
    def has_mask(self) -> bool:
        """True if the raster has a mask that is neither an alpha band nor a nodata value."""
        return any(
            not f or (MaskFlags.per_dataset in f and MaskFlags.alpha not in f) for f in self._mask_flags
        )

    def read_mask(self, window: Window) -> Valid:
        """Return the raster's mask, (h, w), True for data."""
        return np.asarray(self._guard(lambda w: self._src.read_masks(1, window=w), window) > 0)

    def read_thinned(
        self, window: Window, shape: tuple[int, int], indexes: Sequence[int], smooth: bool
    ) -> tuple[Pixels, Valid]:
        """Return bands as stored, thinned to ``shape`` by means (``smooth``) or nearest, and the valid pixels."""
        how: dict[str, Any] = {"resampling": Resampling.average if smooth else Resampling.nearest}
        together = len({self.dtypes[i - 1] for i in indexes}) == 1  # one request decodes shared blocks once
        groups = [list(indexes)] if together else [[i] for i in indexes]
        read = [
            self._guard(lambda w, g=g: self._src.read(g, window=w, out_shape=(len(g), *shape), **how), window)  # type: ignore[misc]
            for g in groups
        ]
        stored = np.concatenate([group.astype(np.result_type(*read), copy=False) for group in read])
        valid = self._guard(lambda w: self._src.dataset_mask(window=w, out_shape=shape), window) > 0
        return stored, np.asarray(valid)

    @staticmethod
    def _check_fit(window: Window, plan: BandPlan, image: Pixels, valid: Valid) -> None:
        shape = window.height, window.width
        if image.shape != (plan.outputs, *shape) or valid.shape != shape or image.dtype != plan.dtype:
            raise ValueError(
                f"image {image.shape} {image.dtype} and valid {valid.shape} do not fit {window}, "
                f"{plan.outputs} bands of {plan.dtype}"
            )
        if not image.flags.c_contiguous:
            raise ValueError("the image to read into is not C-contiguous")

    def _unaligned_cache_bytes(self, area: Window, plan: BandPlan | None, rows: int) -> int:
        """Return `cache_bytes` for windows of ``rows`` rows that end anywhere and share two rows at most."""
        height = self.block_shape[0]
        if self._src.driver == "VRT":
            return self._held_bytes(area, plan, 2 * self._source_block_rows + rows)
        return self._held_bytes(area, plan, height + 2 if self._bands_together else 2 * height + rows)

    def _held_bytes(self, area: Window, plan: BandPlan | None, rows: int) -> int:
        """Return the bytes of the blocks of ``rows`` rows in the area's columns, of the bands that are decoded."""
        every, (height, width) = range(1, len(self.dtypes) + 1), self.block_shape
        bands = every if plan is None or self._bands_together else [*plan.indexes, *self._alphas(plan)]
        columns, count = blocks.touched(area.col, area.col_end, width), -(-rows // height)
        overhead_bytes = count * (columns // width) * len(bands) * BLOCK_OVERHEAD_BYTES
        return count * height * columns * self._pixel_bytes(bands) + overhead_bytes

    @cached_property
    def _bands_together(self) -> bool:
        return buffers.is_interleaved(self._src)

    def _beside_bytes(self, rows: int, width: int, plan: BandPlan) -> int:
        """Return `extra_bytes` of a window of ``rows`` x ``width``, without the decoder."""
        alphas, pixels, piece = self._alphas(plan), rows * width, values.piece_pixels(rows, width)
        kinds = {self.dtypes[i - 1] for i in (*plan.indexes, *alphas)}
        item = np.result_type(*kinds).itemsize
        beside = pixels * item if len(kinds) > 1 else 0  # one band being cast to the common dtype
        if plan.scale is not None or plan.palette or alphas or len(kinds) > 1:
            beside += pixels * item * (len(plan.indexes) + len(alphas))
        beside += pixels * (bool(alphas) + 2 * bool(self._masks(plan)))
        return beside + piece * (
            SCALED_BYTES if plan.scale is not None else PALETTE_BYTES if plan.palette else 2
        )

    @cached_property
    def _decoder_bytes(self) -> int:
        if self._src.driver not in OF_FILES:
            return buffers.decoder_bytes(self._src, self._threads)
        return max((decoder for _, decoder in self._sources), default=0)

    def _guard(self, read: Callable[[GdalWindow], Any], window: Window) -> Pixels:
        try:
            with (
                rasterio.Env(**HONEST, **self._options) if self._src.driver in ASKED_AGAIN else nullcontext()
            ):
                return np.asarray(read(GdalWindow(window.col, window.row, window.width, window.height)))
        except (RsedgeError, MemoryError):
            raise
        except Exception as error:
            detail = str(error.__cause__ or error).partition(" (this error can be turned")[0]  # GDAL's advice
            raise InputError(
                f"{self.path} cannot be read at {window}: {detail}. The file may be truncated or damaged"
            ) from error

    def _read_bands(self, indexes: tuple[int, ...], window: Window, out: Pixels | None = None) -> Pixels:
        """Read bands as stored, (bands, h, w), in one request, so that blocks of all bands are decoded once."""
        kinds = {self.dtypes[i - 1] for i in indexes}
        if len(kinds) == 1:
            return self._guard(lambda w: self._src.read(list(indexes), window=w, out=out), window)
        out = np.empty((len(indexes), window.height, window.width), np.result_type(*kinds))
        for band, index in zip(out, indexes, strict=True):
            band[...] = self._guard(lambda w, i=index: self._src.read(i, window=w), window)  # type: ignore[misc]
        return out

    def _map(self, stored: Pixels, plan: BandPlan, image: Pixels, valid: Valid | None) -> None:
        """Fill ``image``; clear ``valid`` where a palette's colour is transparent."""
        if plan.scale is not None:
            values.map_scale(stored, plan, image, valid)
        elif plan.palette:
            values.expand_palette(stored, plan, image, valid)
        elif not np.shares_memory(stored, image):  # if it shares memory, it was read in place
            image[...] = stored

    def _find_valid(self, stored: Pixels, window: Window, plan: BandPlan, valid: Valid) -> None:
        """Fill ``valid``; ``stored`` holds the plan's bands, then the alpha bands."""
        bands, alphas = stored[: len(plan.indexes)], stored[len(plan.indexes) :]
        valid.fill(True)
        for alpha in alphas:
            valid &= alpha > 0
        for index in self._masks(plan):
            valid &= self._guard(lambda w, i=index: self._src.read_masks(i, window=w), window) > 0  # type: ignore[misc]
        if nodata := self._nodata(plan):
            values.drop_nodata(bands, nodata, valid)
        if bands.dtype.kind == "f":
            values.drop_not_finite(bands, valid)

    @cached_property
    def block_shape(self) -> tuple[int, int]:
        """Height and width of a stored block, pixels."""
        height, width = self._src.block_shapes[0]
        return int(height), int(width)

    @cached_property
    def _source_block_rows(self) -> int:
        """Greatest block height of some of a VRT's sources; at least `blocks.MOST_ROWS`."""
        return max([blocks.MOST_ROWS, *(rows for rows, _ in self._sources)])

    @cached_property
    def _sources(self) -> tuple[tuple[int, int], ...]:
        """Block height and decoding memory, bytes, of some of a VRT's sources."""
        sources, found = [f for f in map(str, self.files[1:]) if not opening.is_vrt(f)], []
        for path in sources[:: max(1, -(-len(sources) // SOURCES_ASKED))]:
            try:
                with unreferenced_allowed(), opening.open_with(path, NAMED.drivers(path)) as source:
                    found.append((int(source.block_shapes[0][0]), buffers.decoder_bytes(source)))
            except Exception:
                continue  # a side file, or a missing source, which reading will report
        return tuple(found)

    def _pixel_bytes(self, bands: Any) -> int:
        return buffers.pixel_bytes([self.dtypes[i - 1] for i in bands])

    def _alphas(self, plan: BandPlan) -> tuple[int, ...]:
        if plan.alphas is not None:
            return plan.alphas
        # By colour, because GDAL's mask flags show alpha only in two- and four-band integer rasters.
        found = (i for i, c in enumerate(self.color_interp, 1) if c == ColorInterp.alpha)
        return tuple(i for i in found if i not in plan.indexes)

    @cached_property
    def _mask_flags(self) -> Any:
        with opening.readable(self.path):
            return self._src.mask_flag_enums  # cached, because each call looks for side files

    def _masks(self, plan: BandPlan) -> tuple[int, ...]:
        """Return the bands whose masks must be read: one if all share a mask, else those with their own."""
        flags = self._mask_flags[plan.indexes[0] - 1]
        if MaskFlags.per_dataset in flags:
            return () if MaskFlags.alpha in flags else plan.indexes[:1]
        return tuple(
            i for i in dict.fromkeys(plan.indexes) if not self._mask_flags[i - 1]
        )  # no flag means an own mask

    def _nodata(self, plan: BandPlan) -> tuple[values.Range, ...]:
        """Return the nodata ranges of the plan's bands as stored; empty if no pixel can have them all."""
        said = plan.nodata or [self._src.nodatavals[i - 1] for i in plan.indexes]
        found = [
            values.stored_nodata(value, self.dtypes[i - 1])
            for value, i in zip(said, plan.indexes, strict=True)
        ]
        return () if None in found else tuple(f for f in found if f is not None)

    def _palette_has_holes(self, plan: BandPlan) -> bool:
        most = np.iinfo(self.dtypes[plan.indexes[0] - 1]).max
        return len(plan.palette) <= most or any(color[3] == 0 for color in plan.palette)
