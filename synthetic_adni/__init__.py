"""A synthetic download in the shape of ADNI: tables, T1 and FA volumes of nobody."""
