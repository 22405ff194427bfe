"""Downloads as they are given out, turned into a folder that the chapters read."""
