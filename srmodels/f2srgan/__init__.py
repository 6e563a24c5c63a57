"""F2SRGAN and its light kin (IEEE Access 11:29062; MDPI Electronics 12(11):2544, both 2023)."""
