"""Faces in images: the protocol of detectors, MTCNN behind it, and the crop that the network gets."""
