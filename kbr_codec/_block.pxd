# cython: language_level=3
"""RawBlock: the owner of one encoded block's memory."""

from libc.stdint cimport uint8_t

from ._builder cimport block_stats


cdef class RawBlock:
    cdef uint8_t *data
    cdef Py_ssize_t size
    cdef block_stats c_stats
    cdef Py_ssize_t shape
    cdef Py_ssize_t stride

    @staticmethod
    cdef RawBlock take(uint8_t *data, size_t size, const block_stats *stats)
